// The calls that move data and compute nothing: broadcast, the gathers, scatter and the exchanges of all with all.

#include <numeric>
#include <utility>

#include "backend/backend.h"

namespace merak {
namespace {

// Of tensors whose dimension 0 is cut into `splits` rows (or, with none given, evenly): how many bytes each part has.
std::vector<std::size_t> part_bytes(const TensorChecks& check, const char* argument, const at::Tensor& tensor,
                                    const std::vector<std::int64_t>& splits, int size) {
  const std::int64_t rows = tensor.dim() > 0 ? tensor.size(0) : tensor.numel();
  if (splits.empty()) {
    check.require(rows % size == 0, std::string("dimension 0 of ") + argument + " has " + std::to_string(rows) +
                                        " rows, which cannot be divided evenly among " + std::to_string(size) +
                                        " ranks; pass split sizes.");
    return std::vector<std::size_t>(size, bytes_of(tensor) / size);
  }
  check.require(splits.size() == static_cast<std::size_t>(size),
                std::string("there are ") + std::to_string(splits.size()) + " split sizes for " + argument + "; pass " +
                    std::to_string(size) + ", one for each rank.");
  std::vector<std::size_t> bytes;
  for (std::int64_t split : splits) {
    check.require(split >= 0 && split <= rows, std::string("a split size for ") + argument + " is " +
                                                   std::to_string(split) + "; it has " + std::to_string(rows) +
                                                   " rows.");
    bytes.push_back(rows == 0 ? 0 : bytes_of(tensor) / rows * split);
  }
  check.require(
      std::accumulate(splits.begin(), splits.end(), std::int64_t{0}) == rows,
      std::string("the split sizes for ") + argument + " do not add up to its " + std::to_string(rows) + " rows.");
  return bytes;
}

void check_own_part(const TensorChecks& check, std::size_t sent, std::size_t received) {
  check.require(sent == received, "the part that this rank sends to itself has " + std::to_string(sent) +
                                      " bytes in the input and " + std::to_string(received) + " in the output.");
}

std::vector<std::size_t> bytes_of_each(const std::vector<at::Tensor>& tensors) {
  std::vector<std::size_t> bytes;
  for (const at::Tensor& tensor : tensors) bytes.push_back(bytes_of(tensor));
  return bytes;
}

std::vector<at::Tensor> flatten(const TensorLists& lists) {
  std::vector<at::Tensor> all;
  for (const auto& list : lists) all.insert(all.end(), list.begin(), list.end());
  return all;
}

// Whether the input lies exactly where its copy would go.
bool in_place(const at::Tensor& input, const void* place) {
  return input.is_contiguous() && input.const_data_ptr() == place;
}

// The input, copied if part of its memory is an output's.
at::Tensor apart(const at::Tensor& input, const std::vector<at::Tensor>& outputs) {
  return share_memory({input}, outputs) ? input.clone() : input;
}

// Bytes differ where dtypes do, but only one dtype can be stated.
at::ScalarType common_dtype(const std::vector<at::Tensor>& tensors) {
  for (const at::Tensor& tensor : tensors) {
    if (tensor.scalar_type() != tensors.front().scalar_type()) return at::kByte;
  }
  return tensors.front().scalar_type();
}

}  // namespace

Backend::WorkPtr Backend::broadcast(Tensors& tensors, const c10d::BroadcastOptions& options) {
  Call call = this->call("broadcast", OperationKind::kBroadcast, c10d::OpType::BROADCAST, options.timeout);
  call.check.count("the list of tensors", tensors.size(), 1);
  if (auto* cuda = on_cuda(tensors[0])) return noted(cuda->broadcast(tensors, options));
  call.check.writable("the tensor", tensors[0]);
  call.write(tensors[0]);
  call.set_size(tensors[0].scalar_type(), bytes_of(tensors[0]));
  call.set_root(options.rootRank);
  call.inputs = tensors, call.outputs = {tensors};
  return start(std::move(call));
}

// all_gather ----------------------------------------------------------------------------------------------------------

// `outputs`: everything that is received, in the order of the message: rank by rank, and what one rank sends in the
// order of its `inputs`.
Backend::WorkPtr Backend::all_gather(Call call, const Tensors& inputs, const Tensors& outputs, TensorLists result) {
  call.check.readable("the input", inputs);
  call.check.writable("the outputs", outputs);
  const char* own_place = outputs.size() == 1 ? static_cast<char*>(outputs[0].data_ptr()) + getRank() * bytes_of(inputs)
                                              : static_cast<char*>(outputs[getRank() * inputs.size()].data_ptr());
  call.shape.in_place = inputs.size() == 1 && in_place(inputs[0], own_place);
  for (const at::Tensor& input : inputs) call.read(call.shape.in_place ? input : apart(input, outputs));
  for (const at::Tensor& output : outputs) call.write(output);
  call.set_size(common_dtype(inputs), bytes_of(inputs));
  call.inputs = inputs, call.outputs = std::move(result);
  return start(std::move(call));
}

Backend::WorkPtr Backend::allgather(TensorLists& outputs, Tensors& inputs, const c10d::AllgatherOptions& options) {
  Call call = this->call("all_gather", OperationKind::kAllGather, c10d::OpType::ALLGATHER, options.timeout);
  call.check.count("the list of inputs", inputs.size(), 1);
  if (auto* cuda = on_cuda(inputs[0])) return noted(cuda->allgather(outputs, inputs, options));
  call.check.count("the list of output lists", outputs.size(), 1);
  call.check.count("the list of outputs", outputs[0].size(), getSize());
  for (const at::Tensor& output : outputs[0])
    call.check.matches("an output", output, inputs[0].numel(), inputs[0].scalar_type());
  return all_gather(std::move(call), inputs, outputs[0], outputs);
}

Backend::WorkPtr Backend::_allgather_base(at::Tensor& output, at::Tensor& input,
                                          const c10d::AllgatherOptions& options) {
  if (auto* cuda = on_cuda(input)) return noted(cuda->_allgather_base(output, input, options));
  Tensors outputs = {output}, inputs = {input};
  return allgather_into_tensor_coalesced(outputs, inputs, options);
}

Backend::WorkPtr Backend::allgather_into_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                                          const c10d::AllgatherOptions& options) {
  Call call = this->call("all_gather", OperationKind::kAllGather, c10d::OpType::_ALLGATHER_BASE, options.timeout);
  call.check.require(!inputs.empty(), "the list of inputs is empty.");
  if (auto* cuda = on_cuda(inputs[0])) return noted(cuda->allgather_into_tensor_coalesced(outputs, inputs, options));
  call.check.count("the list of outputs", outputs.size(), inputs.size());
  for (std::size_t i = 0; i < inputs.size(); ++i)
    call.check.matches("the output tensor", outputs[i], inputs[i].numel() * getSize(), inputs[i].scalar_type());
  if (outputs.size() == 1) return all_gather(std::move(call), inputs, outputs, {outputs});
  call.check.writable("the outputs", outputs);
  Tensors parts;
  for (int rank = 0; rank < getSize(); ++rank) {
    for (const at::Tensor& output : outputs) parts.push_back(part_of(output, rank, getSize()));
  }
  return all_gather(std::move(call), inputs, parts, {outputs});
}

Backend::WorkPtr Backend::allgather_coalesced(TensorLists& outputs, Tensors& inputs,
                                              const c10d::AllgatherOptions& options) {
  Call call = this->call("all_gather", OperationKind::kAllGather, c10d::OpType::ALLGATHER_COALESCED, options.timeout);
  call.check.require(!inputs.empty(), "the list of inputs is empty.");
  if (auto* cuda = on_cuda(inputs[0])) return noted(cuda->allgather_coalesced(outputs, inputs, options));
  call.check.count("the list of output lists", outputs.size(), getSize());
  for (const Tensors& list : outputs) {
    call.check.count("an output list", list.size(), inputs.size());
    for (std::size_t i = 0; i < inputs.size(); ++i)
      call.check.matches("an output", list[i], inputs[i].numel(), inputs[i].scalar_type());
  }
  return all_gather(std::move(call), inputs, flatten(outputs), outputs);
}

// To and from one rank ------------------------------------------------------------------------------------------------

Backend::WorkPtr Backend::gather(TensorLists& outputs, Tensors& inputs, const c10d::GatherOptions& options) {
  Call call = this->call("gather", OperationKind::kGather, c10d::OpType::GATHER, options.timeout);
  call.check.count("the list of inputs", inputs.size(), 1);
  if (auto* cuda = on_cuda(inputs[0])) return noted(cuda->gather(outputs, inputs, options));
  call.check.readable("the input", inputs);
  call.set_size(inputs[0].scalar_type(), bytes_of(inputs[0]));
  call.set_root(options.rootRank);
  call.inputs = inputs, call.outputs = outputs;
  if (getRank() != options.rootRank) {
    call.check.require(outputs.empty(), "outputs were given on rank " + std::to_string(getRank()) +
                                            "; only the root, rank " + std::to_string(options.rootRank) +
                                            ", receives any. Pass none.");
    call.read(inputs[0]);
    return start(std::move(call));
  }
  call.check.count("the list of output lists", outputs.size(), 1);
  call.check.count("the list of outputs", outputs[0].size(), getSize());
  for (const at::Tensor& output : outputs[0])
    call.check.matches("an output", output, inputs[0].numel(), inputs[0].scalar_type());
  call.check.writable("the outputs", outputs[0]);
  call.shape.in_place = in_place(inputs[0], outputs[0][getRank()].const_data_ptr());
  call.read(call.shape.in_place ? inputs[0] : apart(inputs[0], outputs[0]));
  for (const at::Tensor& output : outputs[0]) call.write(output);
  return start(std::move(call));
}

Backend::WorkPtr Backend::scatter(Tensors& outputs, TensorLists& inputs, const c10d::ScatterOptions& options) {
  Call call = this->call("scatter", OperationKind::kScatter, c10d::OpType::SCATTER, options.timeout);
  call.check.count("the list of outputs", outputs.size(), 1);
  if (auto* cuda = on_cuda(outputs[0])) return noted(cuda->scatter(outputs, inputs, options));
  call.check.writable("the output", outputs);
  call.write(outputs[0]);
  call.set_size(outputs[0].scalar_type(), bytes_of(outputs[0]));
  call.set_root(options.rootRank);
  call.inputs = flatten(inputs), call.outputs = {outputs};
  if (getRank() != options.rootRank) {
    call.check.require(call.inputs.empty(), "inputs were given on rank " + std::to_string(getRank()) +
                                                "; only the root, rank " + std::to_string(options.rootRank) +
                                                ", sends any. Pass none.");
    return start(std::move(call));
  }
  call.check.count("the list of input lists", inputs.size(), 1);
  call.check.count("the list of inputs", inputs[0].size(), getSize());
  for (const at::Tensor& input : inputs[0])
    call.check.matches("an input", input, outputs[0].numel(), outputs[0].scalar_type());
  call.shape.in_place = in_place(inputs[0][getRank()], outputs[0].const_data_ptr());
  for (int rank = 0; rank < getSize(); ++rank) {
    const at::Tensor& input = inputs[0][rank];
    call.read(call.shape.in_place && rank == getRank() ? input : apart(input, outputs));
  }
  return start(std::move(call));
}

// All with all --------------------------------------------------------------------------------------------------------

Backend::WorkPtr Backend::alltoall_base(at::Tensor& output, at::Tensor& input, std::vector<std::int64_t>& output_splits,
                                        std::vector<std::int64_t>& input_splits, const c10d::AllToAllOptions& options) {
  Call call = this->call("all_to_all", OperationKind::kAllToAll, c10d::OpType::ALLTOALL_BASE, options.timeout);
  if (auto* cuda = on_cuda(input))
    return noted(cuda->alltoall_base(output, input, output_splits, input_splits, options));
  call.check.readable("the input", input);
  call.check.writable("the output", output);
  call.check.require(output.scalar_type() == input.scalar_type(), "the input and the output must have one dtype.");
  auto sent = part_bytes(call.check, "the input", input, input_splits, getSize());
  auto received = part_bytes(call.check, "the output", output, output_splits, getSize());
  const bool even = input_splits.empty() && output_splits.empty();
  call.set_size(input.scalar_type(), sent[0]);
  call.request.signature.bytes = 0;  // a rank with split sizes, were they even, need not know of one without
  if (even) {
    call.check.require(sent == received, "without split sizes the input and the output must be of one size.");
  } else {
    check_own_part(call.check, sent[getRank()], received[getRank()]);
    call.shape.send_bytes = std::move(sent), call.shape.receive_bytes = std::move(received);
  }
  call.read(apart(input, {output}));
  call.write(output);
  call.inputs = {input}, call.outputs = {{output}};
  return start(std::move(call));
}

Backend::WorkPtr Backend::alltoall(Tensors& outputs, Tensors& inputs, const c10d::AllToAllOptions& options) {
  Call call = this->call("all_to_all", OperationKind::kAllToAll, c10d::OpType::ALLTOALL, options.timeout);
  call.check.count("the list of inputs", inputs.size(), getSize());
  if (auto* cuda = on_cuda(inputs[0])) return noted(cuda->alltoall(outputs, inputs, options));
  call.check.count("the list of outputs", outputs.size(), getSize());
  call.check.readable("the inputs", inputs);
  call.check.writable("the outputs", outputs);
  call.set_size(common_dtype(inputs), 0);
  call.shape.element_bytes = 1;
  call.shape.send_bytes = bytes_of_each(inputs), call.shape.receive_bytes = bytes_of_each(outputs);
  check_own_part(call.check, call.shape.send_bytes[getRank()], call.shape.receive_bytes[getRank()]);
  for (const at::Tensor& input : inputs) call.read(apart(input, outputs));
  for (const at::Tensor& output : outputs) call.write(output);
  call.inputs = inputs, call.outputs = {outputs};
  return start(std::move(call));
}

}  // namespace merak
