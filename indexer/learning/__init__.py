"""What every training shares: the resumable loop, its state file and log, frozen trunks, and several processes.

It does not know what is learnt: map encoders are in `indexer.training`, geocell models in `indexer.geocells`, and the
built-in model is in `indexer.builtin`. Start reading at `loop`.
"""
