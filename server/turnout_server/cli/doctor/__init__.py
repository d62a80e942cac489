"""`turnout-server doctor`: prints what each device is, what is missing, and how to fix it.

`facts` and `nvidia` read the machine, `trial` tries devices and models, `findings` and `gpufindings` judge the results, and
`page` formats them. Only `trial` imports ONNX Runtime, because a broken installation is one of the things to diagnose.
"""
