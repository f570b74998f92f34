"""How the embedded demonstration checkpoint is made: drawn scenes, their exact truth, the training and its evaluation.

Not part of the server: nothing outside this package imports it, and serving needs none of it.
"""
