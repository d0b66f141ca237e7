"""Other projects' configurations and checkpoints, as specifications and layouts of posenc; nothing is imported here."""
