"""Products of a batch with planes of conductances, tile by tile, through converters.

| name | what it does | file |
|---|---|---|
| TiledPlanes | planes, converters and noise made ready once | planes |
| product, tiled_product | inputs times planes; the second packs and reads in one call | product |
| convolution | the same for the patches of images, never unfolded | convolution |
| Quantiser, Noise | converters and read noise as arrays | converters |
"""

from crossbar_sim.crossbar.tiled.planes import Noise as Noise
from crossbar_sim.crossbar.tiled.planes import Quantiser as Quantiser
from crossbar_sim.crossbar.tiled.planes import TiledPlanes as TiledPlanes
from crossbar_sim.crossbar.tiled.product import convolution as convolution
from crossbar_sim.crossbar.tiled.product import product as product
from crossbar_sim.crossbar.tiled.product import tiled_product as tiled_product
