--- `:checkhealth talaria`: finds problems and suggests fixes.
local ghost = require("talaria.ghost")
local server = require("talaria.server")
local talaria = require("talaria")

local health = vim.health
local M = {}

local SECONDS = 30 -- for the program to print its version

---The last file viewed; the current buffer is the report.
---@return integer
local function last_file()
  local files = vim.tbl_filter(
    function(each) return each.name ~= "" and vim.bo[each.bufnr].buftype == "" end,
    vim.fn.getbufinfo({ buflisted = 1 })
  )
  table.sort(files, function(one, other) return one.lastused > other.lastused end)
  return files[1] and files[1].bufnr or 0
end

---The entry of `:checkhealth`.
function M.check()
  health.start("Neovim")
  health.ok(talaria.native() and "vim.lsp.inline_completion draws" or "this plugin draws")
  if vim.fn.exists(":Talaria") == 0 then
    health.error("not set up", 'Put require("talaria").setup() into your configuration.')
  end
  for what, key in pairs(talaria.config.keys or {}) do
    local mapping = key and vim.fn.maparg(key, "i", false, true) or {}
    if key and not vim.startswith(mapping.desc or "", "Talaria") then
      local advice = "Set up Talaria after what maps it, or choose another key in `keys`."
      health.warn(("%s (%s) does something else"):format(key, what), advice)
    end
  end

  health.start("The server")
  local root = vim.fs.root(last_file(), talaria.config.root_markers)
  local cmd, looked, untrusted = server.find(talaria.config.cmd, root)
  if cmd then
    health.ok("found: " .. table.concat(cmd, " "))
    local how = { text = true, timeout = 1000 * SECONDS }
    local probe = vim.system({ cmd[1], "--version" }, how):wait()
    if probe.code == 0 then
      health.ok("version " .. vim.trim(probe.stdout))
    else
      health.error(("it cannot run (exit code %d)"):format(probe.code), vim.trim(probe.stderr or ""))
    end
  elseif untrusted then
    local advice = "If you trust it: `:edit` it, `:trust`, then `:Talaria restart`."
    health.error("not trusted, since it belongs to the project: " .. untrusted, advice)
  else
    local advice = "Install it so that it is in one of them, or set `cmd`: :help talaria-server"
    health.error("not found; looked for " .. table.concat(looked, ", "), advice)
  end

  health.start("Running servers")
  if #server.clients() == 0 then health.info("none; a server starts with the first file") end
  for _, client in ipairs(server.clients()) do
    local params = { command = "talaria.status", arguments = {} }
    local answer = server.call(client, "request_sync", "workspace/executeCommand", params, 2000, 0)
    local engine = answer and answer.result and answer.result.engine
    if not engine then
      health.error("no answer", "See " .. vim.lsp.log.get_filename() .. ", :Talaria restart")
    elseif engine.state == "failed" then
      health.error("no model", "Set options.model; `talaria models` lists them.")
    else
      local where, done = client.config.root_dir or "no project", engine.requests or 0
      health.ok(("%s, %d requests, in %s"):format(engine.state, done, where))
    end
  end
  for language in pairs(ghost.off) do
    local where = language == "" and "all languages" or language
    health.warn("suggestions are off in " .. where, ":Talaria toggle " .. language)
  end
end

return M
