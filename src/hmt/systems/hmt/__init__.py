from hmt.systems.hmt.model import HMTConfig as HMTConfig
from hmt.systems.hmt.model import HMTForCausalLM as HMTForCausalLM
