"""`a2tgpo compare`: methods × seeds of one recipe, and what tells the methods apart."""
