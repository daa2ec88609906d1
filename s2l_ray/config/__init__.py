"""Configuration: a recipe or a YAML file and dotted overrides → one typed, validated, immutable tree."""

from s2l_ray.config.corpus import CorpusConfig, HuggingFaceSource, QuickstartSource, TemplateConfig
from s2l_ray.config.evaluation import EvaluationConfig
from s2l_ray.config.load import ConfigError, list_recipes, load_config, recipe_summary, to_yaml
from s2l_ray.config.model import TrainedModelConfig, TrainTokenizerConfig
from s2l_ray.config.proxy import ProxyConfig
from s2l_ray.config.schema import (
    ClustersConfig,
    EstimatesConfig,
    ResourcesConfig,
    S2LConfig,
    SelectionConfig,
    TrajectoriesConfig,
    WorkersConfig,
)
from s2l_ray.config.target import TargetConfig

__all__ = [
    "ClustersConfig",
    "ConfigError",
    "CorpusConfig",
    "EstimatesConfig",
    "EvaluationConfig",
    "HuggingFaceSource",
    "ProxyConfig",
    "QuickstartSource",
    "ResourcesConfig",
    "S2LConfig",
    "SelectionConfig",
    "TargetConfig",
    "TemplateConfig",
    "TrainTokenizerConfig",
    "TrainedModelConfig",
    "TrajectoriesConfig",
    "WorkersConfig",
    "list_recipes",
    "load_config",
    "recipe_summary",
    "to_yaml",
]
