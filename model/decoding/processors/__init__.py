"""What changes the logits of a row, or which tokens it may take, before they are decided on."""
