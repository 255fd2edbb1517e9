"""ProDA in JAX: domain-adaptive semantic segmentation with prototypes."""
