from hmt.systems.rmt.model import RMTConfig as RMTConfig
from hmt.systems.rmt.model import RMTForCausalLM as RMTForCausalLM
