"""Pairs that ``imagededup`` finds in a folder; runs in the peer's environment: FOLDER METHOD THREADS OUT.

The score of a pair rises with likeness: 64 less the Hamming distance of perceptual hashes, or the cosine of CNN
features. Without its weights (they are downloaded) the CNN runs with random ones.
"""

import json
import os
import sys
import time

import torch

folder, method, threads, out = sys.argv[1:]
torch.set_num_threads(int(threads))
if method == "phash":
    from imagededup.methods import PHash

    finder = PHash(verbose=False)
    options = {"max_distance_threshold": 16, "num_enc_workers": int(threads), "num_dist_workers": int(threads)}
else:
    import torchvision.models as models
    from imagededup.methods import CNN

    small = models.mobilenet_v3_small

    def unweighted(*args, **kwargs):
        return small(weights=None)

    models.mobilenet_v3_small = unweighted
    import imagededup.utils.models as wrapped

    if hasattr(wrapped, "models"):
        wrapped.models.mobilenet_v3_small = unweighted
    finder = CNN(verbose=False)
    options = {"min_similarity_threshold": 0.9, "num_enc_workers": 0}
started, before = time.perf_counter(), sum(os.times()[:4])
found = finder.find_duplicates(image_dir=folder, scores=True, **options)
seconds, processor = time.perf_counter() - started, sum(os.times()[:4]) - before
pairs = {}
for name, near in found.items():
    for other, score in near:
        value = 64 - float(score) if method == "phash" else float(score)
        pairs[min(name, other), max(name, other)] = value
with open(out, "w") as file:
    json.dump({"seconds": seconds, "processor": processor, "pairs": [[a, b, s] for (a, b), s in pairs.items()]}, file)
