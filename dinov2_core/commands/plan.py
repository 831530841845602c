"""``dinov2 plan``: what a run at full size would take. The work is in ``plan``."""

from __future__ import annotations

import argparse

from dinov2_core.commands import Subparsers


def register(subparsers: Subparsers) -> None:
    """Add ``dinov2 plan --images N --gpus KIND:COUNT --cores N``."""
    text = "say what curating a pool of a given size would take: bytes, hours, cost, and what each number rests on"
    parser = subparsers.add_parser("plan", help=text, description=text)
    parser.add_argument("--images", type=float, required=True, help="that the crawl stores, such as 1.2e9")
    parser.add_argument("--gpus", required=True, metavar="KIND:COUNT", help="h200, h100, a100 or v100, such as h200:64")
    parser.add_argument("--cores", type=int, required=True, help="processor cores in all")
    parser.add_argument("--storage-rate", type=float, default=20.0, help="GB/s of the store; default 20")
    parser.add_argument("--encoder", choices=("vitl14", "vith16"), default="vitl14", help="of the retrieval embedding")
    parser.add_argument(
        "--price", nargs="*", default=[], metavar="WHAT=PRICE", help="gpu, core: an hour; storage: a TB-month"
    )
    parser.add_argument("--costs", default="", help="YAML file of unit costs of your own, over the project's")
    parser.set_defaults(function=plan)


def plan(given: argparse.Namespace) -> None:
    """Compute and print."""
    from dinov2_core.errors import UserError
    from dinov2_core.plan import machines, page, stages, unit_costs

    if not 1 <= given.images <= 1e13:
        raise UserError(f"{given.images:g} is no number of images", where="--images", todo="such as 1.2e9")
    kind, number = machines.gpus(given.gpus)
    have = machines.Machines(kind, number, given.cores, 1e9 * given.storage_rate)
    costs = unit_costs.read(given.costs)
    pool = stages.Pool(given.images, given.encoder)
    made = stages.stages(pool, have, costs)
    print(page.text(pool, have, made, costs, machines.prices(given.price)))
