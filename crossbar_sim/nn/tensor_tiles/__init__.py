"""Arrays with converters and read noise on tensors, for any device (docs/periphery.md).

| name | what it does | file |
|---|---|---|
| drive, Driven | inputs to word-line voltages | driving |
| TensorPlanes, product | driven inputs times planes, tile by tile, through converters | product |
| TensorReadout | one block of an array with its converters, as `crossbar.readout.Readout` | readout |
"""
