"""The embedded checkpoint's tokenizer: byte-level BPE like BART's, small, with Florence-2's own tokens at its end.

Trained on the truths of drawn scenes and the sentences of the tasks. Signs are left out of the training text, so that a
capital letter is always a token of its own and reading a sign is spelling it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from vision_server.engine.preprocess import ENDS, FLORENCE_TOKENS, IMAGE_TOKEN
from vision_server.tasks import STOCK, find
from vision_server.training.cells import COLUMNS, ROWS, SIZES
from vision_server.training.questions import PROMPTS, ask
from vision_server.training.scenes import TRAIN_SEEDS, scene
from vision_server.training.truth import NUMBERS

TEXT_TOKENS = 720  # an upper bound; training stops early when every word is whole
TEXT_SCENES = 2000
FREQUENT = 200


def build_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TEXT_TOKENS,
        special_tokens=list(ENDS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_text(), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ENDS])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in [*FLORENCE_TOKENS, IMAGE_TOKEN]])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def _text() -> Iterator[str]:
    # a sentence stands once in the code but in every request, so it is weighed as if it were frequent
    for token in STOCK:
        task = find(token)
        assert task is not None
        yield from [task.sentence.replace("{input}", "")] * FREQUENT
    yield from [f"sign, a sign that says two signs and sign {' '.join([*SIZES, *COLUMNS, *ROWS, *NUMBERS])}"] * FREQUENT
    for seed in TRAIN_SEEDS[:TEXT_SCENES]:
        unsigned = replace(scene(seed), sign=None)
        for token in PROMPTS:
            question = ask(unsigned, token)
            yield from (question.text, question.truth.replace("NA", ""))
