"""Put a retriever behind HTTP, in the JSON that Search-R1's and verl's clients speak.

`app.make_app` makes the FastAPI application, `serve_command.serve` runs it, `a2tgpo serve INDEX` does both. Needs
`pip install 'a2tgpo[server]'`; nothing of it is imported here.
"""
