"""`turnout-server doctor`: one page that says what each device is, what is missing, and the exact fix.

`facts` and `nvidia` read the machine and decide nothing; `findings` decides and reads nothing; `command` has the devices and
the models tried; `page` writes it all down. Nothing here needs an ONNX Runtime that can be imported, because one that can't is
among what this is for.
"""
