"""`vision-server bulk`: many pictures, on one machine or several, by Ray Data; answers as parquet or JSON Lines.

The command lists the source and holds what is written (`sources`, `results`); tasks of Ray read (`reading`), and one
actor for each GPU, or for a few cores, answers (`answering`, `engines`). Only the command writes.
"""
