"""`turnout-server explain MODEL`: where a request would run, and why.

`command` asks a running server, or has `trial` load the model as a server would; `page` writes the answer down.
"""
