"""A person's own pictures with what is true of them, in the forms that people have: read alike by all that need them.

`forms` reads files and folders into rows, looking into no picture; a row becomes an example once its picture's size is
known. The forms stand in the README of `finetune`.
"""
