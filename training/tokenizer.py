"""Trains nano's tokenizer: byte-level BPE, digits split one by one, a chat template of four markers."""

import itertools
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from training.data.mixture import training_stream
from training.data.problem import Task

EOS, PAD, MASK = "<|endoftext|>", "<|pad|>", "<|mask|>"
SYSTEM, USER, ASSISTANT, END = "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"
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
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
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
