"""How a block is denoised."""
