"""Networks: any timm model, its weights, its layers, its input and its exported file."""
