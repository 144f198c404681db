"""The clusters of a finished run get names: evidence, questions or keywords, a table.

request -> gather (evidence, documents) -> names, level by level -> measuring -> table
"""
