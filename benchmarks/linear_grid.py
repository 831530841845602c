"""The 52 heads of the linear grid at once against one by one, on the same batches of features.

``python -m benchmarks.linear_grid --rows 10000 --steps 1000``
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from benchmarks.logistic import features
from dinov2_core.evaluate.linear_grid import PAPER_RATES, LinearGrid, inputs


def main() -> None:
    """Print seconds and test accuracies of both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--alone", type=int, default=52, help="how many heads to train one by one; time is scaled up")
    options = parser.parse_args()
    wide = [features(options.rows, options.dim * 5, options.classes, seed) for seed in (1, 2)]
    (train, labels), (test, truth) = [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in wide]
    split = options.dim * 4

    def batches() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(0)
        for _ in range(options.steps):
            rows = torch.randint(len(train), (options.batch,), generator=generator)
            yield train[rows, :split].unflatten(1, (4, -1)), train[rows, split:], labels[rows]

    grid = LinearGrid(options.dim, 4, options.classes, steps=options.steps, rates=PAPER_RATES)
    first = [(w.clone(), b.clone()) for w, b in (grid.of(head) for head in grid.heads)]
    start = time.perf_counter()
    grid.train(batches())
    seconds = time.perf_counter() - start
    cls, mean = test[:, :split].unflatten(1, (4, -1)), test[:, split:]
    ours = (torch.from_numpy(grid.predict(cls, mean)) == truth).double().mean(dim=1)
    print(f"at once     {seconds:7.2f} s, best {ours.max():.4f}", flush=True)
    start, worst = time.perf_counter(), 0.0
    chosen = list(range(0, 52, max(1, 52 // options.alone)))
    for i in chosen:
        head = grid.heads[i]
        linear = nn.Linear(first[i][0].shape[1], options.classes)
        linear.weight.data, linear.bias.data = first[i][0], first[i][1]
        sgd = torch.optim.SGD(linear.parameters(), lr=head.rate, momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, options.steps)
        for c, m, y in batches():
            loss = nn.functional.cross_entropy(linear(inputs(c, m, head.blocks, head.mean_patch)), y)
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            schedule.step()
        right = linear(inputs(cls, mean, head.blocks, head.mean_patch)).argmax(dim=1) == truth
        worst = max(worst, abs(float(right.double().mean()) - float(ours[i])))
    alone = (time.perf_counter() - start) * 52 / len(chosen)
    print(f"one by one  {alone:7.2f} s ({len(chosen)} heads timed), {alone / seconds:.1f} × slower")
    print(f"largest difference in accuracy {100 * worst:.3f} points")


if __name__ == "__main__":
    main()
