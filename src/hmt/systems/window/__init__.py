from hmt.systems.window.model import WindowConfig as WindowConfig
from hmt.systems.window.model import WindowForCausalLM as WindowForCausalLM
