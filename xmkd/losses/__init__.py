"""Pure losses, with shapes in their docstrings; nothing of xmkd outside this folder."""
