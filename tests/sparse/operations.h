#pragma once
// Whole sparse all-reduces: ranks as threads, each with an engine of its own.

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "sparse/all_reduce.h"
#include "sparse/harness.h"
#include "sparse/row_energies.h"
#include "transport/engine.h"
#include "transport/in_process_transport.h"

namespace merak {

using namespace std::chrono_literals;

struct How {
  bool spoil_sketch = false, on_device = false, into_table = false;
};

// One rank's part in one operation, with its memory. Of one that fails it has to be owned by a std::shared_ptr: an act
// may be under way still.
struct Part : std::enable_shared_from_this<Part> {
  std::vector<std::vector<float>> dense, results;   // by table: what goes in, of those into_table, and what comes out
  std::vector<std::uint32_t> result_ids, kept_ids;  // of a sketch
  std::vector<float> kept;
  SparseAllReduce reduction;

  Part(const std::vector<const Case*>& tables, int rank, Method method, How how = {})
      : dense(tables.size()), results(tables.size()), reduction(task_of(tables, rank, method, how)) {}

  Part(const Case& table, int rank, const SketchBudget& sketch, How how = {})
      : dense(1), results(1), reduction(sketch_task(table, rank, sketch, how)) {}

  SparseTask sketch_task(const Case& table, int rank, const SketchBudget& sketch, How how) {
    SparseTask task = task_of({&table}, rank, Method::kSketch, how);
    task.energies_on_device = [this, values = task.tables[0].values](std::size_t, const RowSums& rows) {
      return energies_of_rows(DType::kFloat32, values.one_run(0, rows.from_bytes()), rows);
    };
    task.sketch = sketch;
    task.allocate_kept = [this, &table](std::size_t, const std::vector<std::uint32_t>& ids) -> void* {
      kept_ids = ids;
      kept.assign(ids.size() * table.columns, -1.0f);
      return kept.data();
    };
    return task;
  }

  SparseTask task_of(const std::vector<const Case*>& tables, int rank, Method method, How how) {
    const int size = tables.front()->size;
    SparseTask task{.tables = {},
                    .method = method,
                    .on_device = how.on_device,
                    .spoil_sketch = how.spoil_sketch,
                    .signature = {.kind = OperationKind::kSparseAllReduce, .dtype = DType::kFloat32},
                    .reducer = make_sparse_reducer(DType::kFloat32, Reduction::kAverage, size),
                    .rank = rank,
                    .topology = uniform_topology(size),
                    .costs = {},
                    .allocate = {}};
    for (std::size_t i = 0; i < tables.size(); ++i)
      task.tables.push_back(table_of_rank(*tables[i], tables[i]->of_rank[static_cast<std::size_t>(rank)], i, how));
    task.allocate = [this, tables, how](std::size_t table, const std::vector<std::uint32_t>& ids) -> void* {
      result_ids = ids;
      const std::size_t rows = how.into_table ? tables[table]->table_rows : ids.size();
      results[table].resize(rows * tables[table]->columns, how.into_table ? 0.0f : -1.0f);
      return results[table].data();
    };
    return task;
  }

  SparseTable table_of_rank(const Case& one, const Contribution& mine, std::size_t i, How how) {
    const Shape shape{one.table_rows, one.columns * sizeof(float), sizeof(float)};
    SparseTable table{shape, own_rows(mine.ids, one.table_rows), {}, how.into_table};
    const std::vector<float>* values = &mine.values;
    if (how.into_table) {
      dense[i].resize(one.table_rows * one.columns);
      for (std::size_t j = 0; j < mine.values.size(); ++j)
        dense[i][static_cast<std::size_t>(mine.ids[j / one.columns]) * one.columns + j % one.columns] += mine.values[j];
      table.own = own_rows_of_dense(present_rows(reinterpret_cast<const std::byte*>(dense[i].data()), one.table_rows,
                                                 shape.row_bytes, shape.element_bytes));
      values = &dense[i];
    }
    table.values.append(const_cast<float*>(values->data()), values->size() * sizeof(float));
    return table;
  }

  std::shared_ptr<Operation> start(Engine& engine, Group& group) {
    Request request;
    static_cast<Act&>(request) = reduction.announce();
    request.further_acts = reduction.further_acts(), request.next_act = [this] { return reduction.next(); };
    request.timeout = 30s, request.keep_alive = weak_from_this().lock();
    return engine.start(group, std::move(request));
  }
};

inline void on_all(int size, const std::function<void(int rank, Engine& engine, Group& group)>& body) {
  InProcessFabric fabric(size);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank)
    threads.emplace_back([&, rank] {
      Engine engine;
      const auto group = engine.open({"sparse", rank, size}, fabric.transport(rank));
      body(rank, engine, *group);
      engine.close(*group, 5s);
    });
  for (std::thread& thread : threads) thread.join();
}

inline void expect_no_error(const Operation& operation) {
  if (auto error = operation.error()) try {
      std::rethrow_exception(error);
    } catch (const std::exception& failure) {
      ADD_FAILURE() << failure.what();
    }
}

}  // namespace merak
