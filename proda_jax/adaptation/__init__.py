"""The paper and its rivals: losses, prototypes, views and the train step of each stage."""
