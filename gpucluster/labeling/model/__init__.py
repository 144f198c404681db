"""Who is asked: a server that speaks the OpenAI protocol, or a program."""
