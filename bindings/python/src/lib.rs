//! `dlock._native`: the engine as Python sees it. Data in, data out; policy stays in the engine.
#![forbid(unsafe_code)]

/// The extension module `dlock._native`.
#[pyo3::pymodule]
mod _native {
    /// Version of the engine, shared by every package of the project.
    #[pymodule_export]
    #[allow(non_upper_case_globals)]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}
