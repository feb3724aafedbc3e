"""
The table of integers that describes a network to the kernels: what is in which entry.

After the first ``N_FIELDS`` entries come the sizes of discrete observations and actions, and the layers of both networks. Of
each network the first entry is the number of layers, then there are ``LAYER_FIELDS`` entries per layer.
"""

#: How observations become the first layer's inputs: FLAT or ONE_HOT.
OBS_KIND = 0
#: Numbers per observation.
N_OBS = 1
#: Inputs of the first layer.
N_FEATURES = 2
#: Where the sizes of discrete observations begin.
OBS_SIZES = 3
#: The distribution of actions: GAUSSIAN, ...
ACTION_KIND = 4
#: Numbers per action.
N_ACTIONS = 5
#: Where the sizes of discrete actions begin.
ACTION_SIZES = 6
#: Where the logarithms of the standard deviations begin in the vector of parameters.
LOG_STD = 7
#: The activation function: TANH, ...
ACTIVATION = 8
#: Where the networks begin in this table.
ACTOR, CRITIC = 9, 10
#: The number of all units of a network.
ACTOR_UNITS, CRITIC_UNITS = 11, 12
#: The number of inputs or units of the widest layer.
WIDEST = 13
#: Columns of gSDE's standard deviations: one per action, or one for all actions.
STD_COLUMNS = 14
#: Whether actions are clipped before they are stored.
CLIP_ACTIONS = 15
#: Offset of the critic's inputs, in numbers per row. 0: both networks share their inputs. Otherwise the actor's inputs of all
#: rows come first.
CRITIC_INPUTS = 16
N_FIELDS = 17

#: A layer: inputs, outputs, where its weight begins in the vector of parameters, where its bias begins.
LAYER_FIELDS = 4

FLAT, ONE_HOT = 0, 1
GAUSSIAN, CATEGORICAL, BERNOULLI, STATE_DEPENDENT, BOUNDED = 0, 1, 2, 3, 4
IDENTITY, TANH, RECTIFIER, ELU, RELU6, SIGMOID = 0, 1, 2, 3, 4, 5
