"""Pure ``nn.Module``s: no Lightning, no configuration objects, nothing of xmkd outside this folder."""
