from .recipe import Recipe as Recipe
from .recipe import Stage as Stage
from .recipe import paper_recipe as paper_recipe
from .run import TrainingResult as TrainingResult
from .run import train as train
from .stops import TrainingDiverged as TrainingDiverged
from .stops import TrainingStopped as TrainingStopped
from .trainer import MemoryTrainer as MemoryTrainer
