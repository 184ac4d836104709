"""A service behind HTTP: for serverless, for a web application that is there anyway, for a server of Inngest's.

Start with `handler.py`, which knows no framework; each framework has a file named after it that only translates
requests. A worker (`stepwell worker app.py`) needs no open port and costs fewer messages; serve where a program
cannot keep running by itself.

Users import from `stepwell.serve`.
"""
