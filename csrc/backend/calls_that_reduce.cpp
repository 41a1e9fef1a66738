// The calls that combine what the ranks contribute: all_reduce, reduce, reduce_scatter.

#include <utility>

#include "backend/backend.h"

namespace merak {

// In place: the tensors, as one message, hold the contribution and then the result.
Backend::WorkPtr Backend::all_reduce(Call call, const Tensors& tensors, const c10d::ReduceOp& op) {
  call.check.writable("the tensors", tensors);
  call.check.one_dtype("the tensors", tensors);
  call.set_size(tensors[0].scalar_type(), bytes_of(tensors));
  call.set_reduction(op, tensors[0].scalar_type(), getSize());
  for (const at::Tensor& tensor : tensors) {
    if (op.op_ == c10d::ReduceOp::PREMUL_SUM) tensor.detach().copy_(premultiplied(tensor.detach(), op));
    call.write(tensor);
  }
  call.inputs = tensors, call.outputs = {tensors};
  return start(std::move(call));
}

Backend::WorkPtr Backend::allreduce(Tensors& tensors, const c10d::AllreduceOptions& options) {
  Call call = this->call("all_reduce", OperationKind::kAllReduce, c10d::OpType::ALLREDUCE, options.timeout);
  call.check.count("the list of tensors", tensors.size(), 1);
  if (tensors[0].layout() == at::kSparse) return all_reduce_sparse_tensors(tensors, options);
  if (auto* cuda = on_cuda(tensors[0])) return noted(cuda->allreduce(tensors, options));
  return all_reduce(std::move(call), tensors, options.reduceOp);
}

Backend::WorkPtr Backend::average(const at::Tensor& tensor, int priority, std::chrono::milliseconds timeout) {
  Call call = this->call("all_reduce", OperationKind::kAllReduce, c10d::OpType::ALLREDUCE, timeout);
  call.check.require(tensor.device().is_cpu(), "a tensor on CPU is needed to say what goes first.");
  call.request.priority = priority;
  return all_reduce(std::move(call), {tensor}, c10d::ReduceOp::AVG);
}

Backend::WorkPtr Backend::allreduce_sparse(Tensors& tensors, const c10d::AllreduceOptions& options) {
  call("all_reduce", OperationKind::kAllReduce, c10d::OpType::_ALLREDUCE_SPARSE, options.timeout)
      .check.count("the list of tensors", tensors.size(), 1);
  return all_reduce_sparse_tensors(tensors, options);
}

Backend::WorkPtr Backend::allreduce_coalesced(Tensors& tensors, const c10d::AllreduceCoalescedOptions& options) {
  Call call = this->call("all_reduce", OperationKind::kAllReduce, c10d::OpType::ALLREDUCE_COALESCED, options.timeout);
  call.check.require(!tensors.empty(), "the list of tensors is empty.");
  if (auto* cuda = on_cuda(tensors[0])) return noted(cuda->allreduce_coalesced(tensors, options));
  return all_reduce(std::move(call), tensors, options.reduceOp);
}

Backend::WorkPtr Backend::reduce(Tensors& tensors, const c10d::ReduceOptions& options) {
  Call call = this->call("reduce", OperationKind::kReduce, c10d::OpType::REDUCE, options.timeout);
  call.check.count("the list of tensors", tensors.size(), 1);
  if (auto* cuda = on_cuda(tensors[0])) return noted(cuda->reduce(tensors, options));
  const at::Tensor& tensor = tensors[0];
  call.check.readable("the tensor", tensor);
  call.set_size(tensor.scalar_type(), bytes_of(tensor));
  call.set_root(options.rootRank);
  call.set_reduction(options.reduceOp, tensor.scalar_type(), getSize());
  call.inputs = tensors, call.outputs = {tensors};
  const at::Tensor contribution = premultiplied(tensor.detach(), options.reduceOp);
  if (getRank() == options.rootRank) {
    call.check.writable("the tensor", tensor);
    call.shape.in_place = contribution.is_same(tensor) || contribution.const_data_ptr() == tensor.const_data_ptr();
    call.write(tensor);
  }
  call.read(contribution);
  return start(std::move(call));
}

// reduce_scatter ------------------------------------------------------------------------------------------------------

// `inputs`: everything that this rank contributes, in the order of the message: rank by rank, and what goes to one rank
// in the order of its `outputs`.
Backend::WorkPtr Backend::reduce_scatter(Call call, const Tensors& outputs, const Tensors& inputs,
                                         const c10d::ReduceOp& op) {
  call.check.writable("the outputs", outputs);
  call.check.one_dtype("the outputs", outputs);
  for (const at::Tensor& input : inputs) {
    call.check.readable("the input", input);
    const at::Tensor contribution = premultiplied(input.detach(), op);
    call.read(share_memory({contribution}, outputs) ? contribution.clone() : contribution);
  }
  for (const at::Tensor& output : outputs) call.write(output);
  call.set_size(outputs[0].scalar_type(), bytes_of(outputs));
  call.set_reduction(op, outputs[0].scalar_type(), getSize());
  call.inputs = inputs, call.outputs = {outputs};
  return start(std::move(call));
}

Backend::WorkPtr Backend::reduce_scatter(Tensors& outputs, TensorLists& inputs,
                                         const c10d::ReduceScatterOptions& options) {
  Call call =
      this->call("reduce_scatter", OperationKind::kReduceScatter, c10d::OpType::REDUCE_SCATTER, options.timeout);
  call.check.count("the list of outputs", outputs.size(), 1);
  if (auto* cuda = on_cuda(outputs[0])) return noted(cuda->reduce_scatter(outputs, inputs, options));
  call.check.count("the list of input lists", inputs.size(), 1);
  call.check.count("the list of inputs", inputs[0].size(), getSize());
  for (const at::Tensor& input : inputs[0])
    call.check.matches("an input", input, outputs[0].numel(), outputs[0].scalar_type());
  return reduce_scatter(std::move(call), outputs, inputs[0], options.reduceOp);
}

Backend::WorkPtr Backend::_reduce_scatter_base(at::Tensor& output, at::Tensor& input,
                                               const c10d::ReduceScatterOptions& options) {
  if (auto* cuda = on_cuda(input)) return noted(cuda->_reduce_scatter_base(output, input, options));
  Tensors outputs = {output}, inputs = {input};
  return reduce_scatter_tensor_coalesced(outputs, inputs, options);
}

Backend::WorkPtr Backend::reduce_scatter_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                                          const c10d::ReduceScatterOptions& options) {
  Call call =
      this->call("reduce_scatter", OperationKind::kReduceScatter, c10d::OpType::_REDUCE_SCATTER_BASE, options.timeout);
  call.check.require(!outputs.empty(), "the list of outputs is empty.");
  if (auto* cuda = on_cuda(outputs[0])) return noted(cuda->reduce_scatter_tensor_coalesced(outputs, inputs, options));
  call.check.count("the list of inputs", inputs.size(), outputs.size());
  call.check.readable("the input tensor", inputs);
  for (std::size_t i = 0; i < inputs.size(); ++i)
    call.check.matches("the input tensor", inputs[i], outputs[i].numel() * getSize(), outputs[i].scalar_type());
  if (inputs.size() == 1) return reduce_scatter(std::move(call), outputs, inputs, options.reduceOp);
  Tensors parts;
  for (int rank = 0; rank < getSize(); ++rank) {
    for (const at::Tensor& input : inputs) parts.push_back(part_of(contiguous_input(input.detach()), rank, getSize()));
  }
  return reduce_scatter(std::move(call), outputs, parts, options.reduceOp);
}

}  // namespace merak
