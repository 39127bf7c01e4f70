"""The field guide: birds drawn on demand, with boxes, parts and the parts that tell any two species apart."""
