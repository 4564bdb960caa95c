"""Train methods × seeds of one recipe and tell the methods apart (`a2tgpo compare`)."""
