"""
The table of integers that describes the encoders of a recurrent policy to the kernels: what is in which entry.

The first four entries describe observations, as those of :mod:`~sb3_a3c.kernels.network_table` do. After the first
``N_FIELDS`` entries come the sizes of discrete observations, and the encoders. Of each encoder the first entry is the number
of its LSTM layers, or 0 if it is a linear layer. Then there are ``LAYER_FIELDS`` entries per layer.
"""

#: Where the encoders begin in this table. It is the same number if both networks share one.
ACTOR_ENCODER, CRITIC_ENCODER = 4, 5
N_FIELDS = 6

#: A layer: inputs, then where in the vector of parameters its ``weight_ih``, ``weight_hh``, ``bias_ih`` and ``bias_hh`` begin.
#: A linear layer has 0 for ``weight_hh`` and ``bias_hh``.
LAYER_FIELDS = 5
