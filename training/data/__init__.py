"""Makes the conversations that the embedded model's adapter is trained on."""
