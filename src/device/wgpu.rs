//! The wgpu backend: Vulkan and Metal.
//!
//! Dispatches are recorded into one command encoder and submitted when something must be read or written, or after
//! [`BATCH`] of them, so that a forward pass costs a handful of submissions. wgpu orders dispatches that touch the
//! same buffer; one queue keeps everything else in order.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use super::template::{self, Expanded, Source, Variant};
use super::{
    Arg, Binding, Call, DeviceChoice, InventoryLine, Language, Memory, Storage, Tier, WgpuOptions,
};
use crate::error::{Error, Result};

/// Dispatches per submission. Small enough that a driver's watchdog never sees seconds of work, large enough that
/// submission cost does not show.
const BATCH: usize = 64;

/// Largest single transfer unless told otherwise; larger ones go in turns so that the staging memory stays bounded.
const TRANSFER: u64 = 64 << 20;

/// Numbers that a call can have, and their bytes.
const MOST_NUMBERS: usize = 16;

pub(crate) struct Wgpu {
    device: wgpu::Device,
    queue: wgpu::Queue,
    info: wgpu::AdapterInfo,
    tier: Tier,
    max_binding: u64,
    staged: bool,
    transfer: u64,
    offset_alignment: u64,
    max_groups: u32,
    state: Mutex<State>,
    /// The first error that no scope caught.
    failure: Arc<OnceLock<String>>,
}

#[derive(Default)]
struct State {
    encoder: Option<wgpu::CommandEncoder>,
    recorded: usize,
    pipelines: HashMap<(&'static str, &'static str, Variant), Arc<Pipeline>>,
}

struct Pipeline {
    pipeline: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
}

/// Adapters of this machine that can run the core tier, hardware first.
fn adapters() -> Vec<wgpu::Adapter> {
    let backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL;
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let mut adapters = pollster::block_on(instance.enumerate_adapters(backends));
    adapters.retain(|a| a.features().contains(wgpu::Features::IMMEDIATES));
    adapters.sort_by_key(|a| match a.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    });
    adapters
}

fn adapter_tier(adapter: &wgpu::Adapter) -> Tier {
    let wanted = wgpu::Features::SHADER_F16 | wgpu::Features::SUBGROUP;
    if adapter.features().contains(wanted) {
        Tier::F16Subgroups
    } else {
        Tier::Core
    }
}

fn backend_name(info: &wgpu::AdapterInfo) -> &'static str {
    match info.backend {
        wgpu::Backend::Vulkan => "vulkan",
        wgpu::Backend::Metal => "metal",
        _ => "wgpu",
    }
}

fn describe(info: &wgpu::AdapterInfo, tier: Tier) -> String {
    let tier = match tier {
        Tier::Core => "core tier",
        Tier::F16Subgroups => "f16 + subgroups tier",
    };
    let software = match info.device_type {
        wgpu::DeviceType::Cpu => ", software",
        _ => "",
    };
    format!("{}, {tier}{software}", info.name)
}

impl Wgpu {
    pub fn open(options: WgpuOptions) -> Result<Self, String> {
        let wanted = |adapter: &wgpu::Adapter| {
            let info = adapter.get_info();
            let backend = match options.choice {
                Some(DeviceChoice::Vulkan) => info.backend == wgpu::Backend::Vulkan,
                Some(DeviceChoice::Metal) => info.backend == wgpu::Backend::Metal,
                _ => true,
            };
            backend && !(options.hardware_only && info.device_type == wgpu::DeviceType::Cpu)
        };
        let adapters = adapters();
        let software = adapters.first().map(|adapter| adapter.get_info().name);
        let adapter = adapters.into_iter().find(wanted);
        let adapter = adapter.ok_or_else(|| match software {
            // What is there was not wanted.
            Some(name) if options.hardware_only => {
                format!("{name} is software, used only when asked for")
            }
            _ => missing(options.choice),
        })?;
        let info = adapter.get_info();
        let possible = adapter_tier(&adapter);
        let tier = options.tier.unwrap_or(possible).min(possible);
        let mut features = wgpu::Features::IMMEDIATES;
        if tier == Tier::F16Subgroups {
            features |= wgpu::Features::SHADER_F16 | wgpu::Features::SUBGROUP;
        }
        let limits = adapter.limits();
        let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("nearmiss"),
            required_features: features,
            required_limits: limits.clone(),
            ..Default::default()
        }))
        .map_err(|e| format!("{} refused to open: {e}", info.name))?;
        let failure = Arc::new(OnceLock::new());
        let sink = failure.clone();
        device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| {
            // Only the first error is the cause; the rest follow from it.
            let _ = sink.set(one_line(&e.to_string()));
        }));
        Ok(Wgpu {
            device,
            queue,
            tier,
            max_binding: limits
                .max_storage_buffer_binding_size
                .min(options.max_binding.unwrap_or(u64::MAX)),
            staged: options
                .staged
                .unwrap_or(info.device_type != wgpu::DeviceType::Cpu),
            transfer: options.max_transfer.unwrap_or(TRANSFER).next_multiple_of(4),
            offset_alignment: u64::from(limits.min_storage_buffer_offset_alignment),
            max_groups: limits.max_compute_workgroups_per_dimension,
            info,
            state: Mutex::default(),
            failure,
        })
    }

    pub fn inventory() -> Vec<InventoryLine> {
        let lines: Vec<InventoryLine> = adapters()
            .iter()
            .map(|adapter| {
                let info = adapter.get_info();
                InventoryLine {
                    device: backend_name(&info).into(),
                    available: true,
                    detail: describe(&info, adapter_tier(adapter)),
                }
            })
            .collect();
        if lines.is_empty() {
            return vec![InventoryLine {
                device: "wgpu".into(),
                available: false,
                detail: missing(None),
            }];
        }
        lines
    }

    pub fn max_binding(&self) -> u64 {
        self.max_binding
    }

    /// Whether products go through workgroup memory here.
    pub fn staged(&self) -> bool {
        self.staged
    }

    /// `true` on an adapter that runs on the processor.
    pub fn is_software(&self) -> bool {
        self.info.device_type == wgpu::DeviceType::Cpu
    }

    /// Records one run of a kernel.
    pub fn dispatch(&self, call: &Call<'_>) -> Result<()> {
        let (kernel, groups) = (call.kernel, call.geometry.groups);
        if groups.contains(&0) {
            return Ok(());
        }
        let source = kernel
            .wgsl
            .ok_or_else(|| self.error(format!("{} exists for other devices only", kernel.entry)))?;
        if groups.iter().any(|&g| g > self.max_groups) {
            return Err(self.error(format!(
                "{} in {}: {groups:?} workgroups, at most {} per dimension",
                kernel.entry, source.file, self.max_groups
            )));
        }
        let mut bindings: Vec<Binding<'_>> = Vec::with_capacity(kernel.params.len());
        let mut numbers = [0u32; MOST_NUMBERS];
        let mut n_numbers = 0;
        for argument in call.arguments(Language::Wgsl) {
            let (param, arg) = argument?;
            match arg {
                Arg::Buffer(binding) if binding.offset.is_multiple_of(self.offset_alignment) => {
                    bindings.push(binding);
                    continue;
                }
                Arg::Buffer(binding) => {
                    return Err(Error::shape(
                        kernel.entry,
                        param.name,
                        format!(
                            "a view that begins at a multiple of {} bytes",
                            self.offset_alignment
                        ),
                        format!("one at {}", binding.offset),
                    ));
                }
                Arg::Absent | Arg::TooLarge(_) => continue,
                Arg::U32(value) => numbers[n_numbers] = value,
                Arg::F32(value) => numbers[n_numbers] = value.to_bits(),
            }
            n_numbers += 1;
        }
        let numbers = bytemuck::cast_slice(&numbers[..n_numbers]);
        let variant = call.variant.extended(&self.tier.variant());
        let pipeline = self.pipeline(source, kernel.entry, variant, &bindings, numbers.len())?;
        let entries: Vec<wgpu::BindGroupEntry> = (0..)
            .zip(&bindings)
            .map(|(binding, b)| {
                let Storage::Wgpu(buffer) = b.storage else {
                    unreachable!("a wgpu device's buffers are wgpu buffers")
                };
                wgpu::BindGroupEntry {
                    binding,
                    resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer,
                        offset: b.offset,
                        size: std::num::NonZeroU64::new(b.bytes),
                    }),
                }
            })
            .collect();
        let group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(kernel.entry),
            layout: &pipeline.layout,
            entries: &entries,
        });
        let mut state = self.lock();
        let encoder = state.encoder.get_or_insert_with(|| {
            self.device
                .create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
        });
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: Some(kernel.entry),
                timestamp_writes: None,
            });
            pass.set_pipeline(&pipeline.pipeline);
            pass.set_bind_group(0, &group, &[]);
            pass.set_immediates(0, numbers);
            pass.dispatch_workgroups(groups[0], groups[1], groups[2]);
        }
        state.recorded += 1;
        if state.recorded >= BATCH {
            self.submit(&mut state);
        }
        self.check()
    }

    /// Entry and values of every variant compiled so far.
    pub fn compiled_variants(&self) -> Vec<(&'static str, String)> {
        let state = self.lock();
        let name = |(_, entry, variant): &(_, _, Variant)| (*entry, variant.to_string());
        state.pipelines.keys().map(name).collect()
    }

    fn pipeline(
        &self,
        source: Source,
        entry: &'static str,
        variant: Variant,
        bindings: &[Binding<'_>],
        immediate_bytes: usize,
    ) -> Result<Arc<Pipeline>> {
        let key = (source.file, entry, variant);
        if let Some(pipeline) = self.lock().pipelines.get(&key) {
            return Ok(pipeline.clone());
        }
        let expanded = template::expand(source, &variant)?;
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let module = self
            .device
            .create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some(source.file),
                source: wgpu::ShaderSource::Wgsl(expanded.text.as_str().into()),
            });
        let entries: Vec<wgpu::BindGroupLayoutEntry> = (0..)
            .zip(bindings)
            .map(|(binding, b)| wgpu::BindGroupLayoutEntry {
                binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: wgpu::BufferBindingType::Storage {
                        read_only: !b.written,
                    },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        let layout = self
            .device
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label: Some(entry),
                entries: &entries,
            });
        let pipeline_layout = self
            .device
            .create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(entry),
                bind_group_layouts: &[Some(&layout)],
                immediate_size: immediate_bytes as u32,
            });
        let pipeline = self
            .device
            .create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(entry),
                layout: Some(&pipeline_layout),
                module: &module,
                entry_point: Some(entry),
                compilation_options: wgpu::PipelineCompilationOptions {
                    // Our shaders write workgroup memory before they read it.
                    zero_initialize_workgroup_memory: false,
                    ..Default::default()
                },
                cache: None,
            });
        if let Some(e) = pollster::block_on(scope.pop()) {
            let text = e.to_string();
            return Err(self.error(format!(
                "{} in {} [{}] does not compile{}: {}",
                entry,
                source.file,
                variant,
                origin(&expanded, &text),
                one_line(&text)
            )));
        }
        let pipeline = Arc::new(Pipeline { pipeline, layout });
        self.lock().pipelines.insert(key, pipeline.clone());
        Ok(pipeline)
    }

    fn submit(&self, state: &mut State) {
        if let Some(encoder) = state.encoder.take() {
            self.queue.submit([encoder.finish()]);
            state.recorded = 0;
        }
    }

    fn wait(&self) -> Result<()> {
        self.device
            .poll(wgpu::PollType::wait_indefinitely())
            .map_err(|e| self.error(format!("waiting for the device failed: {e}")))?;
        self.check()
    }

    fn check(&self) -> Result<()> {
        match self.failure.get() {
            Some(message) => Err(self.error(message.clone())),
            None => Ok(()),
        }
    }

    fn error(&self, message: String) -> Error {
        Error::Device {
            device: self.name(),
            message,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }
}

impl Memory for Wgpu {
    type Storage = wgpu::Buffer;

    fn name(&self) -> String {
        format!(
            "{} ({})",
            backend_name(&self.info),
            describe(&self.info, self.tier)
        )
    }

    fn alloc(&self, bytes: u64) -> Result<Option<wgpu::Buffer>> {
        if bytes > self.device.limits().max_buffer_size {
            return Ok(None);
        }
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: bytes,
            usage: wgpu::BufferUsages::STORAGE
                | wgpu::BufferUsages::COPY_SRC
                | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let failed = pollster::block_on(scope.pop()).is_some();
        Ok((!failed).then_some(buffer))
    }

    fn write(&self, to: &mut wgpu::Buffer, offset: u64, data: &[u8]) -> Result<()> {
        // Queue writes take effect before the next submission: what is recorded must go first.
        self.submit(&mut self.lock());
        for (i, piece) in (0u64..).zip(data.chunks(self.transfer as usize)) {
            self.queue
                .write_buffer(to, offset + i * self.transfer, piece);
            if data.len() as u64 > self.transfer {
                self.queue.submit([]);
                self.wait()?;
            }
        }
        self.check()
    }

    fn read(&self, from: &wgpu::Buffer, offset: u64, data: &mut [u8]) -> Result<()> {
        for (i, piece) in (0u64..).zip(data.chunks_mut(self.transfer as usize)) {
            let bytes = piece.len() as u64;
            let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("read"),
                size: bytes,
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            {
                let mut state = self.lock();
                let encoder = state.encoder.get_or_insert_with(|| {
                    self.device
                        .create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
                });
                encoder.copy_buffer_to_buffer(from, offset + i * self.transfer, &staging, 0, bytes);
                self.submit(&mut state);
            }
            staging.map_async(wgpu::MapMode::Read, .., |_| {});
            self.wait()?;
            let view = staging
                .get_mapped_range(..)
                .map_err(|e| self.error(format!("reading back failed: {e}")))?;
            piece.copy_from_slice(&view);
        }
        Ok(())
    }

    fn copy(
        &self,
        from: &wgpu::Buffer,
        from_offset: u64,
        to: &mut wgpu::Buffer,
        to_offset: u64,
        bytes: u64,
    ) -> Result<()> {
        let mut state = self.lock();
        let encoder = state.encoder.get_or_insert_with(|| {
            self.device
                .create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
        });
        encoder.copy_buffer_to_buffer(from, from_offset, to, to_offset, bytes);
        state.recorded += 1;
        self.check()
    }

    fn synchronize(&self) -> Result<()> {
        self.submit(&mut self.lock());
        self.wait()
    }
}

fn missing(choice: Option<DeviceChoice>) -> String {
    match choice {
        Some(DeviceChoice::Metal) if !cfg!(target_os = "macos") => "Metal exists on macOS only",
        _ if cfg!(target_os = "macos") => "no Metal adapter was found",
        _ => {
            "no Vulkan adapter was found (install the GPU's Vulkan driver, or mesa-vulkan-drivers for a software one)"
        }
    }
    .into()
}

/// wgpu's messages span lines; an error of ours is one.
fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// ` (shaders/FILE:LINE)` for the first expanded line that a compiler message names as `wgsl:LINE:COLUMN`.
fn origin(expanded: &Expanded, message: &str) -> String {
    message
        .split("wgsl:")
        .nth(1)
        .and_then(|rest| rest.split(':').next()?.trim().parse().ok())
        .and_then(|line| expanded.origin(line))
        .map(|at| format!(" (shaders/{at})"))
        .unwrap_or_default()
}
