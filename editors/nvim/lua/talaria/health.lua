--- `:checkhealth talaria`: what is there, what is missing, and what helps.
local server = require("talaria.server")
local talaria = require("talaria")

local health = vim.health
local M = {}

local SECONDS = 30 -- that the program may take to say its version

local function editor()
  health.start("Neovim")
  health.ok(
    talaria.native() and "vim.lsp.inline_completion asks and draws"
      or "this plugin asks and draws by itself"
  )
  if vim.fn.exists(":Talaria") == 0 then
    health.error("it was not set up", 'Put require("talaria").setup() into your configuration.')
  end
  for what, key in pairs(talaria.config.keys or {}) do
    local mapping = key and vim.fn.maparg(key, "i", false, true) or {}
    if key and not vim.startswith(mapping.desc or "", "Talaria") then
      local advice = "Set Talaria up after what maps it, or choose another key in `keys`."
      health.warn(("%s (%s) does something else"):format(key, what), advice)
    end
  end
end

local function program()
  health.start("The server")
  local cmd, looked = server.find(talaria.config.cmd, vim.fs.root(0, talaria.config.root_markers))
  if not cmd then
    local advice = "Install it so that it is in one of them, or set `cmd`: :help talaria-server"
    return health.error("not found; looked for " .. table.concat(looked, ", "), advice)
  end
  health.ok("found: " .. table.concat(cmd, " "))
  local told = vim.system({ cmd[1], "--version" }, { text = true, timeout = 1000 * SECONDS }):wait()
  if told.code == 0 then
    health.ok("version " .. vim.trim(told.stdout))
  else
    health.error(("it cannot run (exit code %d)"):format(told.code), vim.trim(told.stderr or ""))
  end
end

local function running()
  health.start("What runs")
  local clients = server.clients()
  if #clients == 0 then
    local languages = table.concat(talaria.config.options.languages, ", ")
    health.info(
      "no server; it starts with the first file of " .. languages .. ", or :Talaria restart"
    )
  end
  for _, client in ipairs(clients) do
    local params = { command = "talaria.status", arguments = {} }
    local answer = server.call(client, "request_sync", "workspace/executeCommand", params, 2000, 0)
    local status = answer and answer.result
    local where = ("client %d, %d buffers, "):format(
      client.id,
      vim.tbl_count(client.attached_buffers)
    )
    if not status then
      health.error(where .. "no answer", "See " .. vim.lsp.get_log_path() .. ", :Talaria restart")
    elseif status.engine.state == "failed" then
      health.error(where .. "no model", "Set options.model; `talaria models` lists them.")
    else
      local done = ("%s, %s requests"):format(status.engine.state, status.engine.requests or 0)
      health.ok(where .. done)
      local off = status.enabled and table.concat(status.off, ", ") or "all languages"
      if off ~= "" then health.warn("suggestions are off in " .. off, ":Talaria toggle") end
    end
  end
end

---The entry of `:checkhealth`.
function M.check()
  editor()
  program()
  running()
end

return M
