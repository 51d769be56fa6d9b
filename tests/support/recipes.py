"""A whole recipe that runs in seconds."""

from cdlm.model.config import TransformerConfig
from cdlm.training.config import RecipeConfig


def tiny_recipe() -> RecipeConfig:
    """Two layers of width 16, six steps per stage, blocks of 8."""
    descent = {
        "steps": 6,
        "warmup_steps": 2,
        "decay_fraction": 0.5,
        "tokens_per_batch": 600,
        "learning_rate": 0.01,
        "embedding_learning_rate": 0.01,
        "checkpoint_every": 4,
        "log_every": 2,
    }
    shape = TransformerConfig(
        vocab_size=320, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8
    )
    return RecipeConfig.model_validate(
        {
            "seed": 5,
            "mixture": {"words": 0.5, "functions": 0.3, "chat": 0.2},
            "tokenizer": {"vocab_size": 320, "samples": 100},
            "transformer": shape,
            "manifest": {"block_length": 8, "confidence_threshold": 0.9, "max_model_len": 1024},
            "autoregressive": descent,
            "teacher": {**descent, "generation_length": 256, "rehearsal": 0.5},
            "trajectories": {
                "examples": 4, "temperatures": [0.0], "generation_length": 320, "shard_size": 4, "batch_size": 4,
            },
            "student": descent,
        }
    )  # fmt: skip
