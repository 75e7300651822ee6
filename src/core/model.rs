//! A model as the engine sees it: an identity and a prepared form that only the node that takes it can read.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::Result;

/// BLAKE3 of everything behind a model file's header: the same bytes are the same model.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ModelId(pub [u8; 32]);

impl ModelId {
    /// The first 12 hexadecimal digits, as they stand in the `model` column.
    pub fn short(&self) -> String {
        self.0[..6].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ModelId({})", self.short())
    }
}

/// The way that a model comes to a node. A file stands where it is and a retained message comes again with every
/// connection, so a node that runs a model remembers what each of them brought last: that again is nothing new.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelOrigin {
    /// Somebody sent it to the running pipeline.
    #[default]
    Request,
    /// The node's model file holds it.
    File,
    /// The node's model topic brought it.
    Topic,
}

impl ModelOrigin {
    /// As it stands in metrics and log lines.
    pub fn word(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::File => "file",
            Self::Topic => "topic",
        }
    }
}

/// A verified model on its way to a node.
pub struct Model {
    /// Which model this is.
    pub id: ModelId,
    /// The file's bytes, so that a checkpoint can hold the model itself.
    pub bytes: Arc<[u8]>,
    /// How it came.
    pub origin: ModelOrigin,
    /// The form that runs, built off the engine thread by the [`ModelGate`] of the node that takes it.
    pub prepared: Box<dyn Any + Send + Sync>,
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Model({}, {} bytes)", self.id.short(), self.bytes.len())
    }
}

/// Where a model for a node is verified and prepared, off the engine thread. A node whose type takes models
/// comes with its gate; the gate knows the node's input columns.
pub trait ModelGate: Send + Sync {
    /// Checks a model file for this node and prepares it to run.
    ///
    /// # Errors
    /// The reason why the node cannot take it, in words for the person who sent it.
    fn admit(&self, bytes: &[u8]) -> Result<Model>;
}

/// How a node that takes models gets them.
#[derive(Clone)]
pub struct ModelSlot {
    /// Where a model is verified and prepared for this node.
    pub gate: Arc<dyn ModelGate>,
    /// A file that is watched: when its contents change they are admitted.
    pub file: Option<String>,
    /// A retained topic, on the broker of one of the pipeline's MQTT sources, that carries models.
    pub topic: Option<String>,
    /// The id of the model it was built with, if it was built with one.
    pub initial: Option<ModelId>,
    /// Why it was built without the model that its file should hold. It can run only with a model that was saved.
    pub refused: Option<String>,
}
