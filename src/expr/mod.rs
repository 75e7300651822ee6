//! SQL expressions over Arrow batches. Pure: a schema and a text in, a compiled expression out.
