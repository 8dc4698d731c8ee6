"""One of several processes that train a small net in float64 on the same batches, and save the weights to a file.

Not a test. The argument is the file. Batches have 33 pairs, which two processes cannot halve; some batches have fewer
tiles than there are processes.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[2]))

from indexer.learning.distributed import Group
from indexer.training.loss import backward_in_parts, in_batch_loss


def main() -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.GELU(), torch.nn.Linear(16, 8))
    log_scale = torch.nn.Parameter(torch.tensor(2.0))
    inputs, photos = torch.randn(30, 6), functional.normalize(torch.randn(60, 8), dim=1)
    learnt = [*net.parameters(), log_scale]
    optimiser = torch.optim.Adam(learnt, lr=1e-2)
    losses = []
    with Group.from_environment() as group:
        for step in range(40):
            rng = np.random.default_rng(step)
            tiles, column = np.unique(rng.integers(0, 30 if step % 7 else 1, 33), return_inverse=True)
            batch, rows = photos[torch.from_numpy(rng.permutation(60)[:33])], torch.from_numpy(column)

            def embed(part: np.ndarray) -> torch.Tensor:
                return functional.normalize(net(inputs[torch.from_numpy(part)]), dim=1)

            def loss(seen: torch.Tensor, batch: torch.Tensor = batch, rows: torch.Tensor = rows) -> torch.Tensor:
                return in_batch_loss(batch, seen, rows, log_scale.exp(), own=group.share(33))

            optimiser.zero_grad()
            losses.append(backward_in_parts(embed, tiles, loss, group, 4, learnt))
            optimiser.step()
        if group.first:
            flat = torch.cat([p.detach().reshape(-1) for p in learnt])
            np.save(sys.argv[1], torch.cat([torch.stack(losses), flat]).numpy())


if __name__ == "__main__":
    main()
