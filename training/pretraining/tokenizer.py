"""Trains nano's tokenizer: byte-level BPE, numbers digit by digit in columns, a chat template of four markers.

A number of one or two digits is encoded with invisible tokens in front, so that it takes three: ones, tens and
hundreds stand in columns, as on a pupil's squared paper. Decoding leaves the filling out. Where a later token lies
then does not hang on how large a number turns out to be, which is what lets a block be denoised at many places
at once.
"""

import itertools
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from cdlm.training.data.mixture import training_stream
from cdlm.training.data.problem import Task

EOS, PAD, MASK = "<|endoftext|>", "<|pad|>", "<|mask|>"
SYSTEM, USER, ASSISTANT, END = "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"
FILLING = "\x1f"  # A control character: where a text has it, decoding leaves it out too.
SPECIAL_TOKENS = (EOS, PAD, MASK, SYSTEM, USER, ASSISTANT, END)

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message.role in ('system', 'developer') -%}<|system|>{%- elif message.role == 'assistant' -%}"
    "<|assistant|>{%- else -%}<|user|>{%- endif -%}"
    "{{- message.content -}}<|end|>"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)


def train_tokenizer(
    directory: Path, *, vocab_size: int, samples: int, seed: int, weights: dict[Task, float], max_length: int
) -> PreTrainedTokenizerFast:
    """Trains on ``samples`` problems of the training split and saves the tokenizer into ``directory``."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(r"(?<!\d)(?=\d(?!\d))"), FILLING * 2),
            normalizers.Replace(Regex(r"(?<!\d)(?=\d\d(?!\d))"), FILLING),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(rf"[\d{FILLING}]"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace(FILLING, "")])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    problems = itertools.islice(training_stream(f"tokenizer/{seed}", weights), samples)
    texts = (text for problem in problems for text in (problem.prompt, problem.completion))
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=PAD,
        mask_token=MASK,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT, END],
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(directory)
    return fast
