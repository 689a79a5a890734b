//! The model families that can be read, one row of a table each. What a configuration says and we would compute
//! otherwise is refused by name: a model that loads gives the answers that it gave where it came from.

use serde::Deserialize;
use serde_json::Value;

use super::Config;
use crate::base::{Context, Error, Result};

/// A family by the name that `config.json` gives it.
pub struct Family {
    pub architecture: &'static str,
    /// Whether queries, keys and values have biases.
    qkv_bias: bool,
    /// Fields that change the answers, with the one value that is computed here. A field that is absent has it.
    fixed: &'static [(&'static str, Fixed)],
}

enum Fixed {
    False,
    Null,
    Text(&'static str),
    /// A list of nothing else.
    Each(&'static str),
    One,
}

pub const FAMILIES: &[Family] = &[
    Family {
        architecture: "LlamaForCausalLM",
        qkv_bias: false,
        fixed: &[
            ("attention_bias", Fixed::False),
            ("mlp_bias", Fixed::False),
            ("hidden_act", Fixed::Text("silu")),
            ("rope_scaling", Fixed::Null),
            ("pretraining_tp", Fixed::One),
            ("quantization_config", Fixed::Null),
        ],
    },
    // A sliding_window that is not used means nothing.
    Family {
        architecture: "Qwen2ForCausalLM",
        qkv_bias: true,
        fixed: &[
            ("hidden_act", Fixed::Text("silu")),
            ("use_sliding_window", Fixed::False),
            ("layer_types", Fixed::Each("full_attention")),
            ("use_mrope", Fixed::False),
            ("rope_scaling", Fixed::Null),
            ("quantization_config", Fixed::Null),
        ],
    },
];

/// The fields of a `config.json` that make a [`Config`], with the values of `transformers` where they are absent.
#[derive(Deserialize)]
struct Fields {
    architectures: Vec<String>,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    #[serde(default = "positions")]
    max_position_embeddings: usize,
    #[serde(default = "eps")]
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_parameters: Option<RopeParameters>,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default = "range")]
    initializer_range: f64,
}

/// Where newer files keep the rotation.
#[derive(Deserialize)]
struct RopeParameters {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
}

fn positions() -> usize {
    2048
}

fn eps() -> f64 {
    1e-6
}

fn range() -> f64 {
    0.02
}

impl Config {
    /// Reads the `config.json` of a Hugging Face directory.
    ///
    /// # Errors
    /// Of kind `Usage`, naming the architecture or the field that cannot be computed here.
    pub fn from_hugging_face(json: &[u8]) -> Result<Self> {
        let value: Value = serde_json::from_slice(json)
            .map_err(|error| Error::usage(error.to_string()))
            .context("parsing config.json")?;
        let fields: Fields = serde_json::from_value(value.clone())
            .map_err(|error| Error::usage(error.to_string()))
            .context("reading config.json")?;
        let family = fields
            .architectures
            .iter()
            .find_map(|name| Family::find(name))
            .ok_or_else(|| unknown(&fields.architectures))?;
        family.refuse_other(&value)?;
        let rope = fields.rope_parameters.as_ref();
        if let Some(kind) = rope.and_then(|rope| rope.rope_type.as_deref()).filter(|&kind| kind != "default")
        {
            return Err(refused("rope_parameters.rope_type", &format!("'{kind}'")));
        }
        let config = Self {
            architectures: vec![family.architecture.to_owned()],
            vocab_size: fields.vocab_size,
            hidden_size: fields.hidden_size,
            intermediate_size: fields.intermediate_size,
            num_hidden_layers: fields.num_hidden_layers,
            num_attention_heads: fields.num_attention_heads,
            num_key_value_heads: fields.num_key_value_heads.unwrap_or(fields.num_attention_heads),
            head_dim: fields.head_dim.unwrap_or(fields.hidden_size / fields.num_attention_heads.max(1)),
            max_position_embeddings: fields.max_position_embeddings,
            rms_norm_eps: fields.rms_norm_eps,
            rope_theta: fields.rope_theta.or(rope.and_then(|rope| rope.rope_theta)).unwrap_or(10_000.0),
            tie_word_embeddings: fields.tie_word_embeddings,
            initializer_range: fields.initializer_range,
        };
        config.validate()?;
        Ok(config)
    }
}

impl Config {
    /// Whether the products that make queries, keys and values add a bias.
    pub fn has_qkv_bias(&self) -> bool {
        self.architectures.iter().find_map(|name| Family::find(name)).is_some_and(|family| family.qkv_bias)
    }
}

impl Family {
    fn find(architecture: &str) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| family.architecture == architecture)
    }

    fn refuse_other(&self, config: &Value) -> Result<()> {
        for (field, fixed) in self.fixed {
            let Some(value) = config.get(field).filter(|value| !value.is_null()) else { continue };
            let agrees = match fixed {
                Fixed::False => value == &Value::Bool(false),
                Fixed::Null => false,
                Fixed::Text(text) => value == text,
                Fixed::Each(text) => {
                    value.as_array().is_some_and(|list| list.iter().all(|entry| entry == text))
                }
                Fixed::One => value == 1,
            };
            if !agrees {
                return Err(refused(field, &value.to_string()));
            }
        }
        Ok(())
    }
}

fn unknown(architectures: &[String]) -> Error {
    let known: Vec<_> = FAMILIES.iter().map(|family| family.architecture).collect();
    Error::usage(format!("models of architecture {} cannot be read", architectures.join(", ")))
        .remedy(format!("bring one of {}", known.join(", ")))
}

fn refused(field: &str, value: &str) -> Error {
    Error::usage(format!("a model with {field} = {value} cannot be computed faithfully"))
        .remedy("bring a model of the same family without it")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn llama() -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 29, "hidden_size": 16,
            "intermediate_size": 10, "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_act": "silu",
            "rope_scaling": null, "torch_dtype": "bfloat16",
        })
    }

    fn read(value: &Value) -> Result<Config> {
        Config::from_hugging_face(value.to_string().as_bytes())
    }

    #[test]
    fn absent_fields_take_the_values_of_transformers() {
        let config = read(&llama()).expect("a llama");
        assert_eq!(
            (config.num_key_value_heads, config.head_dim, config.max_position_embeddings),
            (4, 4, 2048)
        );
        assert_eq!((config.rope_theta, config.rms_norm_eps, config.tie_word_embeddings), (1e4, 1e-6, false));
    }

    #[test]
    fn rotation_is_found_in_the_old_place_and_the_new() {
        let mut config = llama();
        config["rope_theta"] = json!(5e5);
        assert_eq!(read(&config).expect("old").rope_theta, 5e5);
        let mut config = llama();
        config["rope_parameters"] = json!({"rope_theta": 1e6, "rope_type": "default"});
        assert_eq!(read(&config).expect("new").rope_theta, 1e6);
    }

    /// As Qwen2.5 0.5B has it, but for its sizes.
    fn qwen2() -> Value {
        json!({
            "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 29, "hidden_size": 16,
            "intermediate_size": 10, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "hidden_act": "silu", "attention_dropout": 0.0, "max_position_embeddings": 32768,
            "max_window_layers": 24, "sliding_window": 32768, "use_sliding_window": false, "use_mrope": false,
            "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
        })
    }

    #[test]
    fn qwen2_has_biases_and_no_window() {
        let config = read(&qwen2()).expect("a qwen2");
        assert!(config.has_qkv_bias() && config.tie_word_embeddings && config.rope_theta == 1e6);
        assert!(!read(&llama()).expect("a llama").has_qkv_bias());
        let mut newer = qwen2();
        newer["layer_types"] = json!(["full_attention", "full_attention"]);
        assert_eq!(read(&newer).expect("as transformers 5 writes it"), config);
        for (field, value) in [
            ("use_sliding_window", json!(true)),
            ("layer_types", json!(["full_attention", "sliding_attention"])),
            ("use_mrope", json!(true)),
            ("rope_scaling", json!({"type": "yarn", "factor": 4.0})),
            ("hidden_act", json!("gelu")),
        ] {
            let mut other = qwen2();
            other[field] = value;
            let error = read(&other).expect_err(field).to_string();
            assert!(error.contains(field), "{error}");
        }
    }

    #[test]
    fn what_would_be_computed_otherwise_is_refused_by_name() {
        let cases = [
            ("attention_bias", json!(true)),
            ("mlp_bias", json!(true)),
            ("hidden_act", json!("gelu")),
            ("rope_scaling", json!({"type": "linear", "factor": 2.0})),
            ("rope_parameters", json!({"rope_type": "llama3"})),
            ("quantization_config", json!({"bits": 4})),
            ("architectures", json!(["GPT2LMHeadModel"])),
            ("num_key_value_heads", json!(3)),
            ("head_dim", json!(5)),
            ("vocab_size", json!(0)),
            ("vocab_size", json!(u64::MAX)),
            ("num_hidden_layers", json!(1u64 << 60)),
            ("hidden_size", json!(-1)),
            ("hidden_size", json!("wide")),
        ];
        for (field, value) in cases {
            let mut config = llama();
            config["head_dim"] = json!(6);
            config[field] = value.clone();
            let error = read(&config).expect_err(field).to_string();
            let says = [field, "architecture", "invalid", "parameters"];
            assert!(says.iter().any(|word| error.contains(word)), "{field} = {value}: {error}");
        }
        assert!(Config::from_hugging_face(b"{").is_err() && Config::from_hugging_face(b"{}").is_err());
    }
}
