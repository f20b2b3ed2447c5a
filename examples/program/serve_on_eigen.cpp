#include <elcrec/backend/eigen_cpu.hpp>

#include "program/evaluate.hpp"
#include "program/intents.hpp"
#include "program/recommend.hpp"

void program::Evaluate::evaluate_on_eigen() const { evaluate_on<elcrec::EigenCpu>(); }

void program::Recommend::recommend_on_eigen(bool from_text) const { recommend_on<elcrec::EigenCpu>(from_text); }

void program::Intents::name_on_eigen() const { name_on<elcrec::EigenCpu>(); }
