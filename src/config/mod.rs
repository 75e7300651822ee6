//! The pipeline file: parsing with places, checking, and building the graph. Pure: text in, graph or diagnostics out.
