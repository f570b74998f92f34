"""Teaches a checkpoint from a person's own pictures and answers: `vision-server finetune`.

Reads the data, checks it, trains matrices of LoRA or all weights, and writes what the daemon serves. Not part of the
server: the daemon imports none of it. How it is used stands in this folder's README.
"""
