"""How weights, gradients and optimizer state lie on the ranks: ddp, fsdp, ZeRO."""
