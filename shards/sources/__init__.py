"""Where raw datasets come from: one module a source, each with `Options` and `scan(root, options) -> RawDataset`."""

SOURCES = {
    "cub200": "shards.sources.cub200",
    "stanford_dogs": "shards.sources.stanford_dogs",
    "image_folder": "shards.sources.image_folder",
    "crops": "shards.sources.crops",
    "coco": "shards.sources.coco",
    "field_guide": "shards.sources.field_guide.source",
}
