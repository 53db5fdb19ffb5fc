"""The commands: each takes parsed options, does its work through the library and says where the result is.

Modules here are imported only when their command runs.
"""
